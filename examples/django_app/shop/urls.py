from django.urls import path

from shop import views

urlpatterns = [
    path("login", views.log_in),
    path("logout", views.log_out),
    path("recommend", views.recommend),
]
