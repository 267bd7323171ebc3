"""The OpenAPI document: what the routes' signatures do not say of bodies, answers and errors."""
