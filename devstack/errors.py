"""What can go wrong, in one sentence that a developer can act on."""


class DevstackError(Exception):
    """A fault of the stack or of the machine; its message is printed as it is."""


class NotReady(Exception):
    """A part does not answer yet; its message is the last reason."""
