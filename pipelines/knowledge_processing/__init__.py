"""Steps and parsers of the pipeline that turns an encyclopaedia's article into a notebook."""
