"""Reads and writes records and tables; never sees a tensor."""
