"""Strategies of this package inside other trainers, and what belongs to other trainers as a source of scores here."""
