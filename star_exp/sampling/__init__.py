"""Samplers: from prompts to completions. The policy is an argument, so none holds a stale one."""
