from django.contrib.auth import aauthenticate, alogin, alogout
from django.http import HttpRequest, JsonResponse
from openai import AsyncOpenAI

from shop.gateway import gate

models = AsyncOpenAI(api_key="-", http_client=gate.http_client())


async def log_in(request: HttpRequest) -> JsonResponse:
    name, password = request.POST.get("name"), request.POST.get("password")
    user = await aauthenticate(request, username=name, password=password)
    if user is None:
        return JsonResponse({"error": "Wrong name or password."}, status=401)
    await alogin(request, user)
    return JsonResponse({"hello": user.get_username()})


async def log_out(request: HttpRequest) -> JsonResponse:
    await alogout(request)
    return JsonResponse({"bye": True})


async def recommend(request: HttpRequest) -> JsonResponse:
    """Call a model from a view: through the gateway, without a socket, for who is logged in."""
    user = await request.auser()
    if not user.is_authenticated:
        return JsonResponse({"error": "Log in first."}, status=401)
    answer = await models.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": f"Recommend {request.GET['about']}."}],
        extra_headers={"LLMGate-Property-Feature": "recommend"},
    )
    return JsonResponse({"text": answer.choices[0].message.content})
