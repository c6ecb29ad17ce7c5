"""The one error that the inputs of a study raise."""


class SpecError(ValueError):
    """A mistake in what the user asked for; the message is one line: the rule, the value received, the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
