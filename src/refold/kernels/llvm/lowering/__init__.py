"""From a plan to passes over memory: what each computes, where everything lies, how it is cut to fit the registers."""
