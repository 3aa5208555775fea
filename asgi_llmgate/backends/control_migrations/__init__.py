"""How the tables of the control store came to be, step by step. Run by `control_schema.py`."""
