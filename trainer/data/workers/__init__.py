"""What worker processes do, and how their batches come to the process that trains."""
