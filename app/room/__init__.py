"""A room of people who follow one presenter: ``servescope lab --workshop``. Its state lies in ``HOME/rooms``."""
