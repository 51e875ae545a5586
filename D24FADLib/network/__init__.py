"""Teacher, student, learn-to-weight and the assembled model: tensors in, tensors out."""
