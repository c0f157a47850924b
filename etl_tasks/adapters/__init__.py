"""The only modules that import drivers. They translate a driver's errors once and never retry, bar one
documented repeat.
"""
