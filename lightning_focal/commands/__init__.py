"""Sub-commands that are no method of the Trainer, one file each."""
