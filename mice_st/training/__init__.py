"""Training: data, hard negatives and distillation on sentence-transformers' CrossEncoderTrainer."""
