"""Where tensors live and how ranks talk: one small protocol (device.py), one file a device."""
