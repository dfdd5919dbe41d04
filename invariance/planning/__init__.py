"""What a study takes and needs before it begins."""
