"""What the server of ranks imports once: the same as what recipes' programs are forked from."""

from recipes.common.warm import import_all

import_all()
