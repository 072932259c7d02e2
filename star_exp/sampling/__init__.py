"""Samplers: from prompts to completions. The policy is an argument, so none can hold a stale one."""
