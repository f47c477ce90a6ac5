"""What a person types. Talks to the API over HTTP and starts roles as processes; knows no insides of api or worker."""
