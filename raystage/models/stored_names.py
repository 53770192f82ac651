"""Names of tensors in files that others wrote, as the model's own parameter names."""

from collections.abc import Iterable

from raystage.models.axes import AxisTable

HEAD = "lm_head.weight"
# what older classes stored beside their parameters
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def named_as_model(stored: Iterable[str], axes: AxisTable, tied: bool) -> dict[str, str]:
    """Parameter names by stored names: hub checkpoints may leave out the prefix of the backbone, and hold buffers and
    the tied head, which are left out here. A name that the family does not know stays as it is."""
    backbone = axes.block_prefix.partition(".")[0] + "."
    names = {}
    for name in stored:
        if not (name.endswith(_BUFFERS) or (tied and name == HEAD)):
            names[name] = next((known for known in (name, backbone + name) if _is_known(axes, known)), name)
    return names


def _is_known(axes: AxisTable, name: str) -> bool:
    try:
        axes.lookup(name)
    except KeyError:
        return False
    return True
