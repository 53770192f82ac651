"""Where tensors live and how ranks talk: one small protocol, one file a device."""

from raystage.devices.device import Device, pick_device

__all__ = ["Device", "pick_device"]
