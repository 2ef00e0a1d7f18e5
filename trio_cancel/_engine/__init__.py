"""Makes every decision about orders under way, without input or output: nothing here waits."""
