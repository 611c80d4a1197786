"""Speech: fairseq's S2T models made inert to padding, and its data with features and errors."""
