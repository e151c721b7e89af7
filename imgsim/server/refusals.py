"""Why a request is not answered, where no error of imgsim says it."""


class NoSuchImage(LookupError):
    """No stored image has the id or the path."""


class NotReady(Exception):
    """What is asked for has not been computed yet."""


class NotAllowed(Exception):
    """The server was started without the option that this needs."""
