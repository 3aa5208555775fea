"""What is told to whoever asked the control plane for something that cannot be done."""

from __future__ import annotations

__all__ = ["ConflictError", "ControlError", "UnfitError", "UnknownError"]


class ControlError(Exception):
    """What was asked for cannot be done. The message is for whoever asked."""

    status = 400


class UnfitError(ControlError):
    """It contradicts itself, or what there is."""

    status = 422


class UnknownError(ControlError):
    """There is none with that id."""

    status = 404


class ConflictError(ControlError):
    """There is one already, or somebody else changed it meanwhile."""

    status = 409
