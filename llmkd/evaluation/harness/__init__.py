"""Tasks of lm-eval, run by lm-eval itself."""
