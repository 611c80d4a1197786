"""What every performance figure of this project is made with; see README.md in this folder."""
