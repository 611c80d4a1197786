"""English→German on Tatoeba: five teachers, three students, seven out-of-domain sets."""
