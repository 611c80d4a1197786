"""fairseq training on DeepSpeed's engine; imported only where ``--deepspeed`` is given."""
