"""Everything about orders under way, without input or output: nothing here waits."""
