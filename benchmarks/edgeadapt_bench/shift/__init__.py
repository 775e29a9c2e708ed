"""Label-free adaptation and the detection of shift, beside published methods."""
