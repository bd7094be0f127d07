"""Hurts runs at random and looks for what was lost: see campaign.py."""
