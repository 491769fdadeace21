"""``train.sh`` and ``train.bat``: parsed, edited, and their paths understood."""
