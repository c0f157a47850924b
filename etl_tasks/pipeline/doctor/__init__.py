"""``doctor``: a list of independent checks, each a few facts and a rule."""
