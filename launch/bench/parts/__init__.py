"""Parts of measurements that have a file of their own."""
