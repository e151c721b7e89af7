"""Files with pictures: find them, decode them, describe them."""
