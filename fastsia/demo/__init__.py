"""The demo models: small Qwen2 reasoners for the demo task, their weights and the script that trains them."""
