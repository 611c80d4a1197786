"""Checkpoints of DeepSpeed's engine: what lies on the disk, without fairseq.

A checkpoint is a small file, the pointer, and a folder of shards that it names.
"""
