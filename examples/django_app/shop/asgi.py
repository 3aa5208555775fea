import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django_application = get_asgi_application()

# Views import the gateway, and both need Django's settings.
from asgi_llmgate.integrations.django import mount  # noqa: E402
from shop.gateway import gate  # noqa: E402

application = mount(django_application, "/llm", gate)
