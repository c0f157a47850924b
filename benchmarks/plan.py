"""placeholder"""
def add_options(parser): pass
def run(*a): return [], []
