"""How good the semantic cache's decision is: hits, wrong hits, and what others would have done."""
