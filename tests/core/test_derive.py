from __future__ import annotations

import pytest

from asgi_llmgate.core.derive import Label, derive, hkdf_sha256

# RFC 5869, appendix A: the test cases with SHA-256.
VECTORS = {
    "basic": (
        b"\x0b" * 22,
        bytes(range(0x0D)),
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    "long inputs": (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271"
            "cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    "no salt, no info": (
        b"\x0b" * 22,
        b"",
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
}


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_hkdf_gives_what_the_rfc_says(vector: tuple[bytes, bytes, bytes, str]) -> None:
    ikm, salt, info, expected = vector
    output = hkdf_sha256(ikm, salt=salt, info=info, length=len(expected) // 2)

    assert output.hex() == expected


@pytest.mark.parametrize("length", [0, 255 * 32 + 1])
def test_hkdf_refuses_lengths_it_cannot_give(length: int) -> None:
    with pytest.raises(ValueError, match="8160"):
        hkdf_sha256(b"x" * 32, salt=b"", info=b"", length=length)


def test_every_label_gives_a_key_of_its_own() -> None:
    keys = {derive(b"s" * 32, label) for label in Label}

    assert len(keys) == len(Label)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        derive(b"short", Label.BYOK_TENANT)
