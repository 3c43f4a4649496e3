"""Adapters: releases of public frameworks as subjects. Each is imported by name and imports its framework only when a case is opened."""
