"""Directory: staff files dropped into a bucket become one document per department, served to holders of API keys."""
