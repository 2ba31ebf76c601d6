"""HOW a schedule of stages is carried out on a stock model. Knows no method by name."""
