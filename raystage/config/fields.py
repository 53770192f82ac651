"""Types of values that several groups of keys share."""

from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

Length = Annotated[int, Field(gt=0, multiple_of=8)]
Positive = Annotated[int, Field(gt=0)]
Size = Annotated[int, Field(gt=0, le=1_000_000)]  # of a model: more overflows the sizes of its tensors
DURATION = "a number and 'steps', 'tokens', 'flops' or 'hours', like '4e6 tokens'"
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
