"""How the tests of this folder catch a mistake: the message, once it is known to be one line."""

from collections.abc import Callable
from typing import Any

import pytest

from raystage.config import ConfigError


def message_of(call: Callable[..., Any], *arguments: Any) -> str:
    """What `call(*arguments)` says when it refuses; fails when it does not, or in more than one line."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message.isprintable()
    return message
