"""Text to training rows: sources -> documents -> tokens -> packed rows on disk, and the order they are trained in."""
