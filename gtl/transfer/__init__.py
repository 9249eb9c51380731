"""Other ways to hand knowledge down than a gene: what a parent gives while a descendant learns."""
