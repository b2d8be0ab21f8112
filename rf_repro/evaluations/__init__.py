"""What runs on photographs are sampled and scored by once they are trained: the evaluation plan, and its actions carried out."""
