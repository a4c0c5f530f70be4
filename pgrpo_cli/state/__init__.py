"""What a run keeps on disk, written so that a kill at any byte leaves the last good state."""
