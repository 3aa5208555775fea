"""Which questions mean the same, how sure that is, and where the line is drawn. Pure.

numpy is imported inside functions: who does not use the semantic cache does not need it.
"""
