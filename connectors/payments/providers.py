"""Which adapter serves a provider."""

from orderflow.connectors.payments import local, paypal, stripe
from orderflow.connectors.payments.port import Provider
from orderflow.connectors.payments.settings import PaymentSettings


def build_provider(settings: PaymentSettings) -> Provider:
    """The adapter that the settings name."""
    if settings.provider == stripe.NAME:
        url = settings.provider_url or stripe.URL
        return stripe.StripeProvider(settings.stripe_key, settings.provider_timeout_s, url, return_url=settings.return_url)
    if settings.provider == paypal.NAME:
        return paypal.PayPalProvider(*settings.paypal_client, settings.provider_timeout_s, settings.provider_url or paypal.URL)
    return local.LocalProvider(settings.provider_url or local.URL, settings.provider_timeout_s)
