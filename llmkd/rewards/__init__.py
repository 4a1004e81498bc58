"""What a text is worth: graders of answers, pure functions of text and reference."""
